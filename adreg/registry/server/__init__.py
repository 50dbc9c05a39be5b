"""The registry over HTTP. Knows requests and answers; what they mean is the registry's to say."""
