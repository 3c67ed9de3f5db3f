"""Which pixels belong to which embryo: segmenters, tracking, and the forms in which masks are kept."""
