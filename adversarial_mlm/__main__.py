import sys

from adversarial_mlm.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
