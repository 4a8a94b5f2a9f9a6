export const dynamic = 'force-dynamic' // the release is known when it runs, not when it is built

export default function Page() {
  return <p>Next.js, release {process.env.TARMAC_RELEASE}</p>
}
