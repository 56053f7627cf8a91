"""The words of every model card, and the filled cards (read as nas_zoo.hub_cards)."""
