"""Resources: what assets are given from outside - the workspace with its places - chosen by settings."""
