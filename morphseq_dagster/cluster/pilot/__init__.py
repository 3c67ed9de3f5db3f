"""Jobs that work on several requests: many experiments at once, or several steps of one."""
