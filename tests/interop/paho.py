"""The interoperability suite of Eclipse paho, against a gateway as `iomt run` is.

    python tests/interop/paho.py [CHECKOUT]

CHECKOUT is a clone of github.com/eclipse/paho.mqtt.testing, by default the directory of
that name beside the project (or $PAHO_TESTING). Without one it says so and exits with
77. Each test of the two suites runs in a process of its own, with a time limit. The
suite is made for brokers, which hand on to anybody what anybody publishes, so most of
it cannot pass here, and EXPECTED says for each test what happens and why: exit 0 when
it is just that, 1 when a test passes or fails that should not (docs/mqtt.md section 8).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from served import running

CANNOT = 77
NAME = "paho.mqtt.testing"
TEST_TIMEOUT_S = 40
SUITES = {"3.1.1": "client_test", "5.0": "client_test5"}
FANOUT = "wants to get what a client publishes: we are no broker"
RETAINED = "wants retained messages: there are none here"
WILL = "leaves a will on a topic that is not its own user name's"
WILL_QOS_2 = "leaves a will at QoS 2, which CONNECT may not where 1 is the maximum"
QOS_2 = "floods at QoS 2 and wants 0x93; we say 0x9B to the first one"
SUBACK = "its client takes no SUBACK code above 0x80, and ours is 0x87, not authorised"
PUBACK = "its client cannot read a PUBACK with a reason string"
KEEP_ALIVE = (
    "wants the server to shorten a keep-alive of 120 s to 60 s, as its own does"
)
EXPECTED = {
    "3.1.1": {
        "testBasic": FANOUT,
        "test_keepalive": WILL,
        "test_offline_message_queueing": FANOUT,
        "test_overlapping_subscriptions": FANOUT,
        "test_redelivery_on_reconnect": FANOUT,
        "test_retained_messages": RETAINED,
        "test_unsubscribe": FANOUT,
    },
    "5.0": {
        "test_basic": FANOUT,
        "test_dollar_topics": PUBACK,
        "test_flow_control1": SUBACK,
        "test_flow_control2": QOS_2,
        "test_keepalive": WILL_QOS_2,
        "test_maximum_packet_size": FANOUT,
        "test_offline_message_queueing": FANOUT,
        "test_overlapping_subscriptions": FANOUT,
        "test_payload_format": FANOUT,
        "test_publication_expiry": FANOUT,
        "test_redelivery_on_reconnect": FANOUT,
        "test_request_response": FANOUT,
        "test_retained_message": RETAINED,
        "test_server_keep_alive": KEEP_ALIVE,
        "test_server_topic_alias": FANOUT,
        "test_shared_subscriptions": FANOUT,
        "test_subscribe_failure": SUBACK,
        "test_subscribe_identifiers": FANOUT,
        "test_subscribe_options": FANOUT,
        "test_unsubscribe": FANOUT,
        "test_user_properties": FANOUT,
        "test_will_delay": WILL_QOS_2,
        "test_will_message": WILL_QOS_2,
    },
}

# Prints "ok" or the last line of what went wrong.
_ONE = """
import io, logging, sys, unittest
import {module} as suite
suite.host, suite.port = "127.0.0.1", int(sys.argv[1])
suite.topics = ("TopicA", "TopicA/B", "Topic/C", "TopicA/C", "/TopicA")
suite.wildtopics = ("TopicA/+", "+/C", "#", "/#", "/+", "+/+", "TopicA/#")
suite.nosubscribe_topics = ("test/nosubscribe",)
suite.topic_prefix = ""
logging.getLogger().setLevel(logging.CRITICAL)
real, sys.stdout, sys.stderr = sys.stdout, io.StringIO(), io.StringIO()
names = [sys.argv[2]] if len(sys.argv) > 2 else []
loader = unittest.TestLoader()
if not names:
    found = loader.getTestCaseNames(suite.Test)
    print(*found, sep="\\n", file=real)
    raise SystemExit
result = unittest.TestResult()
loader.loadTestsFromNames(["Test." + one for one in names], suite).run(result)
bad = [text for _, text in result.failures + result.errors]
said = sys.stderr.getvalue().strip().splitlines()
print((bad[0].strip().splitlines()[-1] + " | " + (said or [""])[-1]) if bad else "ok",
      file=real, flush=True)
import os; os._exit(0)
"""


def main() -> int:
    """Run both suites; the exit status."""
    beside = Path(__file__).resolve().parents[3] / NAME
    given = sys.argv[1] if sys.argv[1:] else os.environ.get("PAHO_TESTING")
    checkout = Path(given) if given else beside
    suites = checkout / "interoperability"
    if not (suites / "client_test5.py").is_file():
        print(f"test-paho-interop: no checkout of eclipse/{NAME} at {checkout}")
        return CANNOT
    asked = ("git", "-C", str(checkout), "rev-parse", "HEAD")
    commit = subprocess.run(asked, check=False, capture_output=True, text=True).stdout
    print(f"eclipse/{NAME} {commit.strip() or 'of no commit that git knows'}")
    with ThreadPoolExecutor(len(SUITES)) as pool:
        found = pool.map(lambda one: _suite(suites, *one), SUITES.items())
        surprises = sum(found)
    return 1 if surprises else 0


def _suite(suites: Path, version: str, module: str) -> int:
    """Run one; how many tests did not do what is expected of them."""
    surprises = 0
    with (
        tempfile.TemporaryDirectory() as directory,
        running(Path(directory)) as gateway,
    ):
        answers = {}
        for name in _ask(suites, module, gateway.port).split():
            answer = answers[name] = _ask(suites, module, gateway.port, name)
            passed = answer == "ok"
            surprise = passed == (name in EXPECTED[version])
            surprises += surprise
            why = answer if surprise else EXPECTED[version].get(name)
            said = "passed" if passed else f"failed: {why}"
            print(
                version, name, f"UNEXPECTED: {said}" if surprise else said, flush=True
            )
    counted = Counter(one == "ok" for one in answers.values())
    print(f"MQTT {version}: {counted[True]} passed, {counted[False]} failed")
    return surprises


def _ask(suites: Path, module: str, port: int, *test: str) -> str:
    """What a process of the suite says; its time may run out."""
    code = _ONE.format(module=module)
    try:
        return subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code, str(port), *test],
            check=False,
            cwd=suites,
            capture_output=True,
            text=True,
            timeout=TEST_TIMEOUT_S,
        ).stdout.strip()
    except subprocess.TimeoutExpired:
        return f"did not end in {TEST_TIMEOUT_S} s"


if __name__ == "__main__":
    sys.exit(main())
