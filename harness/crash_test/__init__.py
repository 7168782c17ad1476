"""``kifa-crash-test``: feeds a store, cuts its power, and judges what is left by content."""
