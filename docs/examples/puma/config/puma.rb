threads 5, 5
# A thread takes a connection from its first byte to its last: when puma stops, it has none that was accepted and not
# answered.
queue_requests false
raise_exception_on_sigterm false
