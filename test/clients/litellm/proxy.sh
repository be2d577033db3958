curl -sS --fail-with-body http://127.0.0.1:4000/v1/images/edits -H "Authorization: Bearer $LITELLM_MASTER_KEY" \
  -F model=mini -F image=@examples/alice.png -F image=@examples/bob.png \
  -F 'prompt=a woman <|image|> and a man <|image|> at the beach at sunset' -F seed=7 -o answer.json
sed 's/.*"b64_json":"\([^"]*\)".*/\1/' answer.json | base64 -d > out.png
