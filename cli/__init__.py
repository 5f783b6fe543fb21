"""The command line: parsing, help, checks of the configuration, signals."""
