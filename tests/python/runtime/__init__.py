"""An agent runtime, as the gateway's `http` agent expects it: `POST /agent/message/stream`, answered as a stream of events.

    python -m runtime --port 8001       (in tests/python; INTERNAL_API_KEY says the key that callers have to show)

It repeats what it is told, word by word. A text that begins with a slash is a script, one step a line:

    /say TEXT           a message in tokens, and once more whole
    /send JSON          a chunk
    /tool NAME JSON     a call of a tool
    /error TEXT         an error
    /done               the chunk that ends an answer
    /wait SECONDS
    /text JSON          a string that goes out as it is, whatever it is
    /framing NAME       of the chunks from here on: bare, message, crlf, multiline, comments
    /split N            writes no more than so many bytes at once from here on
    /cut                breaks the connection
    /silent             says nothing more, until the caller goes
    /status N TEXT      the whole answer is this status with this text; only as the first step
    /type MEDIA_TYPE    the answer's content type; only as the first step

Without `/done` or an end in `/text`, the answer ends with its stream. `GET /requests` tells what it was asked.
"""
