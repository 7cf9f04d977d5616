# What schemathesis does not know by itself.
import schemathesis

LINES = "application/x-ndjson"
TIMEOUT = "X-Anabranch-Timeout-Ms"

# Documents of a bulk load are lines of text.
schemathesis.serializer.alias(LINES, "text/plain")


# What is no text is sent as text, which is right again. Nor is it a mistake to send a header that
# nobody knows: beside one that is a number it would be taken for one.
@schemathesis.hook
def filter_case(context, case):
    is_text = case.media_type != LINES or isinstance(case.body, (str, bytes))
    return is_text and "x-schemathesis-unknown-property" not in (case.headers or {})


# A short time may be too short on a busy machine, and then it is right to say so. One that is wrong
# is sent as it is.
@schemathesis.hook
def map_case(context, case):
    timeout = str((case.headers or {}).get(TIMEOUT, ""))
    if timeout.isascii() and timeout.isdigit() and 100 <= int(timeout) < 2**64:
        case.headers[TIMEOUT] = "30000"
    return case
