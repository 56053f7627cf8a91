"""The papers' experiments: each table and figure as one command, with a page and a verdict (`nas-zoo paper`)."""
