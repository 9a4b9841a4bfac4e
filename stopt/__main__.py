"""``python -m stopt``."""

from stopt.cli.main import main

if __name__ == "__main__":
    main()
