"""`assay`, and `python -m assay`."""

import sys


def main() -> None:
    """Run the command line; an interrupt while it is still imported is as quiet as a later one."""
    try:
        from assay import cli
    except KeyboardInterrupt:
        sys.exit(130)
    cli.main()


if __name__ == "__main__":
    main()
