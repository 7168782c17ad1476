"""The crash-test harness: drives kifa and lazyfs from outside."""
