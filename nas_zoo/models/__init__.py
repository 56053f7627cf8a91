"""Networks: operations, layouts, timm models and their registration, counts, weights."""
