"""Networks for others: a card that says what is known, a page that runs it, the Hub.

Other rooms import of it:

    published   a trained model with what is known of it
    card        its model card
    page        the page that runs it in a browser
"""
