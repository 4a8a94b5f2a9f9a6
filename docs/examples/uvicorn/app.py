import os


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body = "ok\n" if scope["path"] == "/health" else f"uvicorn, release {os.environ.get('TARMAC_RELEASE')}\n"
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body.encode()})
