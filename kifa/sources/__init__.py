"""Where entries come from; each kind is a module, imported when it is configured."""
