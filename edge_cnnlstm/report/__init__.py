"""One run folder in, one report out: a JSON document, a page and a picture."""
