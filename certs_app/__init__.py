"""Who is who: the CA, its certificates and revocation lists, TLS contexts and the caller's identity."""
