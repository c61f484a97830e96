"""Whether a server answers, found out within a time that is really kept."""

import queue
import ssl
import threading
import urllib.error
import urllib.request


def is_answering(url: str, within_s: float) -> bool:
    """Whether a GET brings anything back but the server's own fault (500 and above).

    It asks in a thread of its own: the time limit of a connection begins behind the look-up of its name, which may hang
    for minutes by itself.

    Args:
        url: http or https; nothing is sent but this.
        within_s: seconds after which it counts as silent.
    """
    answer: queue.Queue[bool] = queue.Queue()
    threading.Thread(target=lambda: answer.put(_ask(url, within_s)), daemon=True).start()
    try:
        return answer.get(timeout=within_s)
    except queue.Empty:
        return False


def _ask(url: str, within_s: float) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=within_s):
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500
    except urllib.error.URLError as error:
        return isinstance(
            error.reason, ssl.SSLError
        )  # somebody is there; whom to trust is for W&B's own process to say
    except (OSError, ValueError):  # it hung up; or it is no URL
        return False
