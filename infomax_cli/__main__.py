"""``python -m infomax_cli`` is ``infomax``."""

from infomax_cli.main import main

if __name__ == "__main__":
    main()
