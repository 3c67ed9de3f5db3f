"""Public fakes and builders that tests and users share: a toy pipeline and small experiments. Holds no tests."""
