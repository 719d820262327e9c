"""How every command of the project ends: its exit code, and one message instead of a traceback."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from vit.errors import Stopped, UserError

MISTAKE = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells report it; of SIGTERM 143
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


def run(main: Callable[[], int | None]) -> NoReturn:
    """Call `main` and exit with what it returns (None is 0).

    A UserError is printed alone, on stderr, with exit code 2, and so is a disk that is full or may not be written to.
    Any other exception is our bug and keeps its traceback.
    """
    try:
        code = main() or 0
        sys.stdout.flush()
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        code = MISTAKE
    except KeyboardInterrupt as error:
        print("Interrupted.", file=sys.stderr)
        code = 128 + error.signal if isinstance(error, Stopped) else INTERRUPTED
    except BrokenPipeError:
        # `... | head` has read enough. What is left in the buffer has nowhere to go when Python flushes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        if error.errno not in DISK:
            raise
        print(
            f"Error: {error.filename or 'a file'}: {error.strerror}. Free space, or choose another place.",
            file=sys.stderr,
        )
        code = MISTAKE
    sys.exit(code)
