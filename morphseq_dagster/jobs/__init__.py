"""Jobs: what people launch from the web page beside the assets themselves."""
