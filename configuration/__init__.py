"""What configurations name: classes and their signatures, trusted modules, hints."""
