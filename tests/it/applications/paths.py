"""An application of WSGI: what is below /admin is for administrators only."""


def application(environ, start):
    is_admins = environ["PATH_INFO"].startswith("/admin")
    page = b"for administrators only" if is_admins else b"for everybody"
    start("200 OK", [("content-type", "text/plain"), ("content-length", str(len(page)))])
    return [page]
