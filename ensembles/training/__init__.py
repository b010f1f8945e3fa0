"""Recipes that train members. The only place besides `export.py` that imports torch or scikit-learn."""
