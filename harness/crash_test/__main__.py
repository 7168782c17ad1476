"""``python -m harness.crash_test``."""

from harness.crash_test.cli import main

if __name__ == "__main__":
    main()
