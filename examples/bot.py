#!/usr/bin/env python3
"""A bot that survives a bad network:  ./bot.py '<magic link>' [name]      (needs only Python)

It answers "!roll" with a throw of the dice. After a lost connection it continues from its cursor, so it answers each
message once. If the server asks it to wait, it waits. Ctrl-C leaves the chat.

The exit code is 2 if it cannot join, and 1 if its seat or the chat ends.
"""
import http.client
import json
import random
import re
import sys
import time
import urllib.error
import urllib.request
import uuid

link = re.fullmatch("(https?://[^#]+)#invite=(.+)", sys.argv[1] if len(sys.argv) > 1 else "")
if not link:
    print(f"usage: {sys.argv[0]} '<magic link>' [name]   (a magic link contains #invite=, so quote it)", file=sys.stderr)
    sys.exit(2)
chat, invitation = link.groups()
name = sys.argv[2] if len(sys.argv) > 2 else "Dice"
token = None


def end(why):
    print(why, file=sys.stderr)
    sys.exit(1 if token else 2)


def sentence(error):
    """The server's error message. Another program at that address may answer something else than JSON."""
    try:
        return json.loads(error.read())["message"]
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return f"{chat} answers {error.code} {error.reason}."


def call(path="", body=None):
    """Repeats a request until it is answered. The key makes repeats harmless. Joining fails if nothing answers."""
    headers = {"Authorization": f"Bearer {token or invitation}", "Idempotency-Key": uuid.uuid4().hex}
    data = None if body is None else json.dumps(body).encode()
    while True:
        wait = 1
        try:
            request = urllib.request.Request(chat + path, data, headers)
            with urllib.request.urlopen(request, timeout=70) as answer:
                return json.loads(answer.read() or "null")
        except urllib.error.HTTPError as error:
            if error.code != 429 and error.code < 500:
                end(sentence(error))
            wait = int(error.headers.get("Retry-After") or wait)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if not token:
                end(f"No chat answers at {chat} ({error}).")
            print(f"No answer ({error}), trying again.", file=sys.stderr)
        time.sleep(wait)


token = call("/join", {"username": name})["session_token"]
try:
    cursor = call("?since=latest")["cursor"]
    while True:
        news = call(f"?since={cursor}&wait=50")
        if news["missed"]:
            print("Some messages were gone before they could be read.", file=sys.stderr)
        for message in news["messages"]:
            if message["text"] == "!roll":
                call(body={"text": f"{message['username']} rolls {random.randint(1, 6)}"})
        cursor = news["cursor"]
except KeyboardInterrupt:
    call("/leave", {})
