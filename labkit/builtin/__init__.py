"""The model that is always there: `gptj-tiny`, the text it learned from, and the script that trained it."""
