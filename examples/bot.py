#!/usr/bin/env python3
"""A bot that stays:  ./bot.py '<magic link>' [name]      (needs nothing but Python)

It answers "!roll" with a throw of the dice. When the connection is lost it goes on from its cursor, so that each
message is answered once; when the server tells it to wait, it waits. Ctrl-C gives its seat back.
"""
import http.client
import json
import random
import sys
import time
import urllib.error
import urllib.request
import uuid

if len(sys.argv) < 2:
    sys.exit(__doc__)
name = sys.argv[2] if len(sys.argv) > 2 else "Dice"
chat, _, token = sys.argv[1].partition("#invite=")


def call(path="", body=None):
    """One request, repeated until it is answered; the key sees to it that nothing happens twice."""
    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": uuid.uuid4().hex}
    data = None if body is None else json.dumps(body).encode()
    while True:
        wait = 1
        try:
            request = urllib.request.Request(chat + path, data, headers)
            with urllib.request.urlopen(request, timeout=70) as answer:
                return json.loads(answer.read() or "null")
        except urllib.error.HTTPError as error:
            if error.code != 429 and error.code < 500:
                sys.exit(error.read().decode())
            wait = int(error.headers.get("Retry-After") or wait)
        except (OSError, http.client.HTTPException) as error:
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
