"""The commands of the command line, by what they do; `__main__` calls them."""
