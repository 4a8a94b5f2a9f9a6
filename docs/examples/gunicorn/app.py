import os


def app(environ, start_response):
    body = "ok\n" if environ["PATH_INFO"] == "/health" else f"gunicorn, release {os.environ.get('TARMAC_RELEASE')}\n"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body.encode()]
