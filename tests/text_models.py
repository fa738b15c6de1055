"""A BERT of a few thousand weights with a word-piece tokenizer of its own: real transformers, no download."""

from __future__ import annotations

from pathlib import Path

import torch

WORDS = ("good", "bad", "film", "very", "not", "a", "it", "was", "##ly", "real", "!")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SENTENCES = ("good", "a very good film !", "it was bad", "not a really bad film", "")


def save_tiny_bert(folder: Path, seed: int = 0, layers: int = 2) -> Path:
    """Write a BERT with ``layers`` layers of width 16 as ``save_pretrained`` does."""
    from transformers import BertConfig, BertModel, BertTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: i for i, word in enumerate((*SPECIAL, *WORDS))}
    BertTokenizer(vocab=vocabulary, model_max_length=32).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        BertModel(config).save_pretrained(folder)
    return folder
