from tiny_network import network, shape, tokenizer_directory, tokenizers  # noqa: F401 (fixtures)
