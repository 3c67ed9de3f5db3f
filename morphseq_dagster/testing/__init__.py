"""Public fakes and builders that tests and users share: a toy registry and small experiments. Holds no tests."""
