"""A tiny SentenceTransformer with random weights, and its data; no download."""

import contextlib
import warnings

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from hardmine.integrations import _fallback
from support.inputs import seeded

WORDS = [f"word{k}" for k in range(30)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def save_transformer(folder):
    """Saves a BERT of two layers without dropout, and its tokenizer of words."""
    torch.manual_seed(0)
    vocabulary = {word: number for number, word in enumerate(SPECIAL + WORDS)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {f"{token.strip('[]').lower()}_token": token for token in SPECIAL}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=16, **names).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def model_of(folder, **options):
    transformer = modules.Transformer(str(folder))
    pooling = modules.Pooling(transformer.get_embedding_dimension())
    return SentenceTransformer(modules=[transformer, pooling], device="cpu", **options).double()


def sentences(count, seed=0, length=5):
    """Random sentences, [count] strings."""
    numbers = torch.randint(len(WORDS), (count, length), generator=seeded(seed))
    return [" ".join(WORDS[k] for k in row) for row in numbers.tolist()]


@contextlib.contextmanager
def fused():
    """The code of the library itself is an error."""
    _fallback._warned.clear()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".* runs the code of .* itself")
        yield
