"""Where the embryos are: detectors, their quality filter and the choice of a backend."""
