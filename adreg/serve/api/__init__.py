"""The engine over HTTP in OpenAI's dialect. Knows requests and answers, nothing of models or tensors."""
