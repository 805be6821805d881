"""A conversation with an agent behind Plugway, by the official SDK: pip install openai, then python chat.py."""

import os
import sys

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("PLUGWAY_URL", "http://127.0.0.1:8080") + "/v1",
    api_key=os.environ.get("PLUGWAY_KEY", "none is needed on a loopback address"),
)
model = sys.argv[1] if len(sys.argv) > 1 else client.models.list().data[0].id
conversation = client.conversations.create()
print(f"talking to {model}; an empty line ends it")
while question := input("> ").strip():
    with client.responses.stream(model=model, input=question, conversation=conversation.id) as stream:
        for event in stream:
            if event.type == "response.output_text.delta":
                print(event.delta, end="", flush=True)
    print()
