"""Minimal pairs for `similarity_gaming.py`: an expert's step beside right and wrong twins of it."""
