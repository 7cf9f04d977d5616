# What schemathesis does not know by itself: documents of a bulk load are lines of text.
import schemathesis

schemathesis.serializer.alias("application/x-ndjson", "text/plain")
