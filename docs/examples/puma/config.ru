# Each answer is the last one of its connection: puma closes idle connections at once when it stops, also those on
# which a client is sending its next request in that instant.
class LastAnswer
  def initialize(app)
    @app = app
  end

  def call(env)
    status, headers, body = @app.call(env)
    [status, headers.merge('connection' => 'close'), body]
  end
end

use LastAnswer

run lambda { |env|
  body = env['PATH_INFO'] == '/health' ? "ok\n" : "puma, release #{ENV['TARMAC_RELEASE']}\n"
  [200, { 'content-type' => 'text/plain' }, [body]]
}
