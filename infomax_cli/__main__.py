"""Where `infomax` begins, as ``python -m infomax_cli`` does: an interruption may come before anything is imported."""

import sys


def main() -> None:
    try:
        from infomax_cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
