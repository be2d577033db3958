import com.openai.client.OpenAIClient;
import com.openai.client.okhttp.OpenAIOkHttpClient;
import com.openai.core.JsonValue;
import com.openai.models.images.ImageEditParams;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Base64;
import java.util.List;

public class Edit {
    public static void main(String[] args) throws Exception {
        OpenAIClient client = OpenAIOkHttpClient.builder().baseUrl("http://127.0.0.1:8080/v1").apiKey("none").build();
        try (InputStream alice = Files.newInputStream(Path.of("examples/alice.png"));
                InputStream bob = Files.newInputStream(Path.of("examples/bob.png"))) {
            var answer = client.images().edit(ImageEditParams.builder()
                    .model("mini")
                    .image(ImageEditParams.Image.ofInputStreams(List.of(alice, bob)))
                    .prompt("a woman <|image|> and a man <|image|> at the beach at sunset")
                    .putAdditionalBodyProperty("seed", JsonValue.from(7))
                    .build());
            var picture = answer.data().get().get(0);
            Files.write(Path.of("out.png"), Base64.getDecoder().decode(picture.b64Json().get()));
            System.out.println(picture._additionalProperties().get("seed") + " " + picture.revisedPrompt());
        }
        client.close();
    }
}
