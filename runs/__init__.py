"""Run folders: their names, identity, results, and what fills them."""
