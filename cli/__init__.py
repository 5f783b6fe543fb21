"""The command line: parsing, help, checks of the configuration, and the commands as functions."""
