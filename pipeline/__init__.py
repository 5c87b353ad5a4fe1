"""The nouns: what travels between the stages. Imports nothing of ours from outside this folder."""
