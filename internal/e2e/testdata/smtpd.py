# A mail server for tests, aiosmtpd: smtpd.py PORT MAILDIR [CERTIFICATE KEY USER PASSWORD]. With a user it offers
# AUTH only after STARTTLS and takes nothing from who has not signed in. It ends with its standard input.
import hmac
import ssl
import sys

from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Mailbox
from aiosmtpd.smtp import AuthResult

port, maildir, *secured = sys.argv[1:]
options = {}
if secured:
    certificate, key, user, password = secured
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def authenticate(server, session, envelope, mechanism, data):
        right = data.login == user.encode() and hmac.compare_digest(data.password, password.encode())
        return AuthResult(success=right, handled=False)

    options = dict(tls_context=context, require_starttls=True, auth_required=True, auth_require_tls=True, authenticator=authenticate)
Controller(Mailbox(maildir), hostname="127.0.0.1", port=int(port), **options).start()
sys.stdin.read()
