"""Texts on which a compiled tokenizer must give the ids that Transformers gives."""

from __future__ import annotations

# Each line is there for something that tokenizers disagree about.
TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "Hello World",
    "hello world",
    "a",
    " leading blanks",
    "trailing blanks  ",
    "  several   blanks \t and tabs\n\nand lines\r\n",
    "I'll, you're, don't; it's (they've) [brackets] {braces} \"quotes\" ``ticks''",
    "naïve café Zürich Köln São Paulo Škoda Åse",
    "nai\u0308ve cafe\u0301 o\u0302\u0323 combining marks",
    "İstanbul ISPARTA ışık STRASSE straße ß ẞ Σίσυφος ΟΔΟΣ",
    "北京大学 東京都 漢字かな交じり文 カタカナ ｶﾀｶﾅ",
    "한국어 텍스트 เเละภาษาไทย हिन्दी में עברית العربية ﷺ",
    "Привет, мир! Ёлка Київ",
    "😀 👩‍👩‍👧‍👦 🇩🇪 👍🏽 emoji",
    "ﬁ ﬂ ① ² ½ Ⅷ ™ ｆｕｌｌ ㍿",
    "zero\u200bwidth soft\u00adhyphen nbsp\u00a0here \u2028 line \ufeff mark",
    "control \x00 \x01 \x1b \x7f \ufffd characters",
    "1234567890 3.14159 1,000,000 -5 10^6 50% $9.99 €5 #tag @user",
    "http://example.org/a?b=c&d=e#f user@example.org C:\\path\\file.txt",
    "snake_case CamelCase kebab-case x=y+z; a->b <b>html</b> &amp;",
    "[CLS] a [SEP] b [MASK] c [PAD] [UNK] [sep]",
    "<s> a </s> b <mask> c <pad> <unk> <MASK>",
    "<|endoftext|> <|im_start|> a <|im_end|> <bos> <eos>",
    "a[MASK]b a<mask>b [MASK]. <mask>,",
    "▁ ▁under ##ing Ġ Ċ ## ▁▁",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "x" * 150,
    "ab" * 300,
    "....!!!???---___***   ~~~",
    "don’t “curly” ‘quotes’ – dashes — …",
    "One. Two! Three? Four; five: six",
)
PAIRS = (
    ("Who was born?", "Ada Lovelace was born in London."),
    ("hello", "world"),
    (" a", " b "),
    ("[MASK] <mask>", "[SEP] </s>"),
    ("Größe", "北京 😀"),
)
