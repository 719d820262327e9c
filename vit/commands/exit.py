"""How every command ends: with an exit code, and one message instead of a traceback."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from vit.errors import Stopped, UserError

MISTAKE = 2
INTERRUPTED = 130  # 128 + SIGINT, as in shells; 143 for SIGTERM
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


def run(main: Callable[[], int | None]) -> NoReturn:
    """Call `main` and exit with what it returns (None is 0).

    A UserError, or a full or unwritable disk, prints only its message on stderr, with exit code 2. Any other exception
    is a bug and keeps its traceback.
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
        # The reader, such as `head`, has closed the pipe; Python must not fail when it flushes the rest.
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
